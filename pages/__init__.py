"""What figures and HTML pages of all rooms share: colours, SVG and PNG, files, templates."""
