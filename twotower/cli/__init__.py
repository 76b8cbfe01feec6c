"""The command `twotower`: a file for each family of commands. Only this room prints or exits."""
