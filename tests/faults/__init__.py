"""What happens to banks when processes die and the power goes. A package, so that it can be run by hand."""
