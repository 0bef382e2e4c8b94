// ---- Publishing over HTTP ------------------------------------------------------------------------------------

const NOTIFICATION_PATH = "/api/notification";
// Beyond whatever the server itself waits for the broker.
const PUBLISH_TIMEOUT_MS = 60_000;

const publishDesk = Object.fromEntries([
  "publish", "publish-topic", "publish-message", "publish-key", "publish-result", "curl", "copy",
].map((id) => [id, document.getElementById(id)]));

function notification() {
  return JSON.stringify({ topic: publishDesk["publish-topic"].value, message: publishDesk["publish-message"].value });
}

let isPublishing = false;

async function publish() {
  if (isPublishing) return;
  isPublishing = true;
  const headers = { "Content-Type": "application/json" };
  const key = publishDesk["publish-key"].value;
  if (key !== "") headers.Authorization = `Bearer ${key}`;
  tellOfPublishing("under-way", "Waiting for the broker’s confirmation…");
  try {
    const signal = AbortSignal.timeout(PUBLISH_TIMEOUT_MS);
    const answer = await fetch(NOTIFICATION_PATH, { method: "POST", headers, body: notification(), signal });
    const told = await answer.json();
    if (answer.ok) tellOfPublishing("published", `Published: ${told.id}`);
    else tellOfPublishing("failed", `${answer.status}, ${told.title}: ${told.detail}`);
  } catch (error) {
    tellOfPublishing("failed", `No answer that makes sense, so it is not known whether this was published: ${error.message}`);
  }
  isPublishing = false;
}

function tellOfPublishing(outcome, words) {
  publishDesk["publish-result"].dataset.outcome = outcome;
  publishDesk["publish-result"].textContent = words;
}

/** The key itself stays in its field: a line to copy ends in histories and in mails. */
function renderCurl() {
  const parts = [
    "curl", "-d", quoted(notification()), "-H", quoted("Content-Type: application/json"),
    ...(publishDesk["publish-key"].value === "" ? [] : ["-H", "\"Authorization: Bearer $WARREN_API_KEY\""]),
    quoted(location.origin + NOTIFICATION_PATH),
  ];
  publishDesk.curl.textContent = parts.join(" ");
}

/** For a shell, which reads nothing between single quotes but their end. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

async function copyCurl() {
  try {
    await navigator.clipboard.writeText(publishDesk.curl.textContent);
    tellOfPublishing("copied", "Copied.");
  } catch {
    // Browsers hand the clipboard only to pages over TLS or of this host.
    getSelection().selectAllChildren(publishDesk.curl);
    tellOfPublishing("selected", "Selected, to be copied by hand.");
  }
}

publishDesk.publish.addEventListener("submit", (event) => { event.preventDefault(); publish(); });
publishDesk.publish.addEventListener("input", renderCurl);
publishDesk.copy.addEventListener("click", copyCurl);
renderCurl();
