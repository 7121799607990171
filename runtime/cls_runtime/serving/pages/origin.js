
"use strict";
// The commands on the page ask the address that the page came from.
for (const place of document.querySelectorAll("[data-origin]")) {
  place.textContent = new URL(".", location.href).href.replace(/\/$/, "");
}
