"""Cards: facts and a template make a README.md; and the check of one."""
