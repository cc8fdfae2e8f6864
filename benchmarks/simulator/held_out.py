"""Predict each network of each measured device from at most five of its other networks, and from its class.

The network that is predicted stands nowhere in what the prediction rests on: neither among the device's five points
nor among the rows of other devices from which its class is learned. Of the device itself nothing but the five points
is seen, under whatever name its rows were published.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hwsim.simulate.calibration import Point, Prediction, Workload, calibrate, points_to_measure
from hwsim.simulate.class_prior import Measured, Parts, Trust, learn
from hwsim.target.schema import Target

MVP = "Silicon Labs MVP"

POINTS = 5
# How far the descriptors of a class may be off, and the noise of its rows. The Hexagon descriptor is mostly guesses,
# and each of its rows a median of many runs. The microcontroller's is documented; submissions differ (`repeats`). Of
# Hailo's and NVIDIA's processors peaks and bandwidths are published, so little is open of a device as a whole, but the
# model misses some of their networks by much on all devices alike.
TRUSTS = {
    "dsp_npu": Trust(1.5, 0.06),
    "mcu": Trust(0.0, 0.2),
    "edge_npu, Hailo": Trust(0.0, 0.2, speed=0.3, workload=0.3),
    "datacenter_gpu": Trust(0.0, 0.2, speed=0.3, workload=0.2),
    "edge_gpu": Trust(0.0, 0.2, speed=0.3, workload=0.2),
}


@dataclass(frozen=True)
class Row:
    """One measurement: seconds of one inference."""

    device: str
    device_class: str
    network: str
    workload: Workload
    target: Target
    own_descriptor: bool
    seconds: float
    parts: Parts


def family(row: Row) -> str:
    """Devices that learn from each other: one class, of one maker or on one software stack where that tells them apart.

    Small cores learn from each other whatever their instructions are, and so does a unit beside one that is no faster.
    """
    name = row.device_class.split()[0]
    if name == "dsp_npu":
        return f"{name}, {row.device.rsplit(', ')[-1]}"
    if name == "edge_npu":
        return f"{name}, {'Hailo' if row.device.startswith('HAILO') else row.device}"
    return "mcu" if name == "riscv_cpu" or row.device.startswith(MVP) else name


def trust_of(row: Row) -> Trust | None:
    """How far the rows of other devices of its family are trusted; None where it learns from its own alone."""
    name = family(row)
    return TRUSTS.get(name, TRUSTS.get(name.split(",")[0]))


def predictions(rows: Sequence[Row]) -> Iterable[tuple[Row, Prediction]]:
    """Every row that can be held out, with its prediction."""
    families: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        families[family(row)].append(row)
    for members in families.values():
        trust = trust_of(members[0])
        devices: dict[str, list[Row]] = defaultdict(list)
        for row in members:
            devices[row.device].append(row)
        for network in sorted({row.network for row in members}):
            if trust is not None:
                yield from _from_class(members, devices, network, trust)
            else:
                for own in devices.values():
                    yield from _alone(own, network)


def _points(own: Sequence[Row], network: str) -> list[Row]:
    """At most five rows of other networks, chosen before any is measured by how much each would tell."""
    others = sorted((row for row in own if row.network != network), key=lambda row: row.seconds)
    relative = not own[0].own_descriptor
    chosen = points_to_measure(own[0].target, [row.workload for row in others], POINTS, relative)
    return [others[index] for index in chosen]


def _from_class(
    members: Sequence[Row], devices: dict[str, list[Row]], network: str, trust: Trust
) -> Iterable[tuple[Row, Prediction]]:
    others = [row for row in members if row.network != network]
    for device, own in sorted(devices.items()):
        points = _points(own, network)
        tested = [row for row in own if row.network == network]
        if not points or not tested:
            continue
        published = {
            (row.workload.name, row.seconds) for row in own
        }  # one measurement stands under several names
        relatives = [
            row
            for row in others
            if row.device != device and (row.workload.name, row.seconds) not in published
        ]
        rows = [_measured(row) for row in (*relatives, *points)]
        model = learn(rows, trust)
        for row in tested:
            yield row, model.predict(device, row.parts)


def _alone(own: Sequence[Row], network: str) -> Iterable[tuple[Row, Prediction]]:
    points = _points(own, network)
    if not points:
        return
    measured = [Point(row.workload, row.seconds) for row in points]
    model = calibrate(own[0].target, measured, not own[0].own_descriptor)
    for row in own:
        if row.network == network:
            yield row, model.predict(row.workload)


def _measured(row: Row) -> Measured:
    return Measured(row.device, row.parts, row.seconds)


def repeats(rows: Sequence[Row]) -> list[float]:
    """Where a device and stack has a network's row more than once: each one against their geometric mean."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        groups[row.device, row.workload.name].append(row.seconds)
    found: list[float] = []
    for seconds in groups.values():
        if len(seconds) > 1:
            product = 1.0
            for value in seconds:
                product *= value
            found += [value / product ** (1 / len(seconds)) - 1 for value in seconds]
    return found
