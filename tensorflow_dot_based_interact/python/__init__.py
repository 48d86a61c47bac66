"""Python side, at the paths of the original package."""
