"""Users' declarations, one module (or folder) a project. They import `features` alone; their data lies in `data/`."""
