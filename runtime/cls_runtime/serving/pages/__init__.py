"""What a person sees in a browser: the start page and the page of the API."""
