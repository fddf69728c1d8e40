"""What a bar is, where bars come from, which are let in: tables, sources, calendars, validation, clocks."""
