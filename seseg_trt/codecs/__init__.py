"""Codecs: bytes to pixels and back. Each module loads its library only when it is used."""
