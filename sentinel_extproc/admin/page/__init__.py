"""The live page of the admin port: what happens now, for people. No build step, nothing fetched.

- ``session``: who is logged in; pure but for the clock
- ``html``: HTML that is escaped by construction: pure
- ``cells``: numbers and names as a person reads them: pure
- ``tables``: what the page shows, as tables and series: pure
- ``widgets``: tables and form fields: pure
- ``documents``: the pages themselves: pure
- ``sources``: what it looks at
- ``orders``: what its forms ask for, and the words for it: pure
- ``assets``: the files of ``static``, as they are served
- ``routes``: the HTTP of it
- ``static``: its style and its script, served under names that carry their hash
"""
