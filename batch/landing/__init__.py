"""Landing: events of files and topics into the lake, each exactly once."""
