"""What travels between server and silos, and the engines that carry it."""
