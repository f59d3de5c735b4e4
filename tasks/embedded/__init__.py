"""The servers and processes that `up` and `ocr` start by themselves."""
