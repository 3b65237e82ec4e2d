"""Would the tests notice? Faults written by hand, put into a copy of the package one at a time."""
