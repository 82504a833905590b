"""The page of ranked queries: its template, style and script, the thumbnails beside it, and what writes them."""
