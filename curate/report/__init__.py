"""`curate report`: what runs chose, in one page that can be opened anywhere. SQL over the store, put together here, and
shown by a small app in `assets/`; a page asks no network, and what pools say is data in it, never markup.
"""
