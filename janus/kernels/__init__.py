"""Products of matrices as fast as the device at hand can do them."""
