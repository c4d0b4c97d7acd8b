"""What clients ask for: the Hub's HTTP interface, Git LFS, Xet and git itself."""
