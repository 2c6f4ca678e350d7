"""The report of a run: one page, a model card, and the checklists of the field."""
