"""Where bytes lie: a disk or an object store; what a name means; files written whole; locks."""
