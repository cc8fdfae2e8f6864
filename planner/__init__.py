"""The decision: option tables in, proven plan out. Import the file you need: this package stays light."""
