"""Users' declarations, one module or folder per project. They import `anabranch` alone."""
