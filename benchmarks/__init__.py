"""How fast the attacks are, beside a bare loop and beside other libraries, on the same machine."""
