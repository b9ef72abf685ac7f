"""Users' declarations, one module (or folder) a project. They import `features` alone; data they ship lies in `data/`."""
