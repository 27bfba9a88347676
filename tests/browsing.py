"""Pages in a real browser, watched."""

WIDE, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}


class Watched:
    """A page, what it asked for over the network, and what its console complained about."""

    def __init__(self, browser, size=WIDE, scheme="light"):
        self.page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
        self.asked, self.complaints = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None,
        )

    def open(self, path):
        self.page.goto(path.as_uri())
        return self.page
