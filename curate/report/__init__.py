"""The HTML page of `curate report`: which samples the runs kept, with scores, losses and times.

SQL on the store gives the content, this package puts it together as JSON, and a small app in `assets/` shows it. The
page uses no network. Text from a pool is data in the page, never markup.
"""
