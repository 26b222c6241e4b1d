"""The report as a page: summary, tables, pictures and plots laid out by a template."""
