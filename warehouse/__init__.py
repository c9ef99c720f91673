"""Where rows live: the lake, the door through which sources come in, releases and reports."""
