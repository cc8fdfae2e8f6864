"""What a device needs for a layer or a plan: cycles, traffic, energy."""
