//! The tests of this package are all there is to it: they run the compiled examples as child processes.
