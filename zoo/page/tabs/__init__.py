"""The tabs of the page, one file each; a file is found by being here."""
