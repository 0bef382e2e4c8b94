// ---- Asking a backend ----------------------------------------------------------------------------------------
// Over the session for topics: so a backend can answer this page alone.

const backendDesk = Object.fromEntries([
  "ask", "ask-destination", "ask-message", "ask-result",
].map((id) => [id, document.getElementById(id)]));

function askBackend() {
  if (!isTopicSessionOpen()) {
    tellOfBackend("failed", "Join a topic first: the answer comes over the session for topics.");
    return;
  }
  topics.requests += 1;
  const id = String(topics.requests);
  topics.asked.set(id, { type: "send" });
  const [destination, text] = [backendDesk["ask-destination"].value, backendDesk["ask-message"].value];
  topics.socket.send(JSON.stringify({ type: "send", id, destination, text }));
  tellOfBackend("under-way", "Waiting for the broker’s confirmation…");
}

function backendTook({ message_id: id }) {
  tellOfBackend("published", `A group of backends has it: ${id}`);
}

function backendRefused({ code, message }) {
  tellOfBackend("failed", `Not sent: ${message} (${code}).`);
}

function backendsLost() {
  tellOfBackend("failed", "The connection was lost: it is not known whether a backend has it.");
}

function forgetAnswers() {
  tellOfBackend("", "");
}

function tellOfBackend(outcome, words) {
  backendDesk["ask-result"].dataset.outcome = outcome;
  setWords(backendDesk["ask-result"], words);
}

backendDesk.ask.addEventListener("submit", (event) => { event.preventDefault(); askBackend(); });
