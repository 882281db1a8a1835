"""The command line. Each verb is a module, imported when it is called."""
