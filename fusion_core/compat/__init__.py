"""Published code, reproduced number for number so that papers can be checked. The defaults elsewhere differ."""
