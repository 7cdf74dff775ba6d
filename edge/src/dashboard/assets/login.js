// Shows the token once; the answer brings a cookie that no script can read.
const form = document.getElementById("form");
const said = document.getElementById("said");
const field = document.getElementById("token");

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  said.textContent = "";
  const token = field.value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) {
    said.textContent = "A token has no spaces and no letters beyond ASCII.";
    field.select();
    return;
  }
  try {
    const answer = await fetch("/session", { headers: { authorization: `Bearer ${token}` } });
    if (answer.ok) {
      field.value = "";
      location.replace("/");
      return;
    }
    const body = await answer.json().catch(() => ({}));
    said.textContent = answer.status === 401 ? "That is not the token." : body.error ?? `edged answers ${answer.status}`;
  } catch {
    said.textContent = "edged does not answer.";
  }
  field.select();
});
