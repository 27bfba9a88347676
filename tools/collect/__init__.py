"""Makes the corpus of what people have: texts, books, tables, chats, records, and archives of them."""
