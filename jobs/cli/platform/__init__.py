"""The servers, and who may use them; what is watched."""
