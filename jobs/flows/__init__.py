"""Jobs that put several layers together: build, erase, watch, answer."""
