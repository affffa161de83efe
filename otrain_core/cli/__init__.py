"""The command `otrain`."""
