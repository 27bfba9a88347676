"""The user's texts: lines of JSON into documents that are known to be good, each in its split."""
