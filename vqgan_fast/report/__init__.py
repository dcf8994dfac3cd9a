"""What a run looks like: pictures laid out on sheets, loss curves, a page that shows them all."""
