"""SQL expressions of declarations: typed as Spark types them, and compiled to SQL that never fails."""
