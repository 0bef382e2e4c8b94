// ---- Receiving -----------------------------------------------------------------------------------------------

function messageArrived({ data }) {
  if (isSomebodys()) {
    ownNoticeArrived(data);
    return;
  }
  if (typeof data === "string") settleReturned(data);
  take({ data, at: new Date() });
}

/** Shows a message; one of a topic tells which, and the id by which everybody knows it. */
function take(arrival) {
  state.received += 1;
  show(arrival);
}

/** What is missing is shown where it is missing, and is no message. */
function takeGap(words) {
  state.gaps += 1;
  show({ gap: words, data: words, at: new Date() });
}

function show(arrival) {
  state.arrivals.push(arrival);
  // What would leave the list at once need not wait for it. Trimmed in halves, as shift() moves the whole array.
  if (state.arrivals.length >= 2 * MESSAGES_SHOWN_MAX) state.arrivals = state.arrivals.slice(-MESSAGES_SHOWN_MAX);
  // A timer rather than an animation frame: a page in the background gets no frames.
  state.timers.render ||= setTimeout(renderArrivals, RENDER_EVERY_MS);
}

function renderArrivals() {
  state.timers.render = 0;
  const arrivals = state.arrivals.slice(-MESSAGES_SHOWN_MAX);
  state.arrivals = [];

  page.messages.prepend(...arrivals.toReversed().map(messageEntry));
  while (page.messages.childElementCount > MESSAGES_SHOWN_MAX) page.messages.lastElementChild.remove();
  page.messages.hidden = false;
  page.empty.hidden = true;
  renderCounts();
  announce(arrivals.at(-1), arrivals.length);
}

/** Whoever comes next may not have been allowed to hear these, nor is to find what was written. */
function forgetMessages() {
  clearTimeout(state.timers.render);
  state.timers.render = 0;
  Object.assign(state, { received: 0, gaps: 0, arrivals: [], unannounced: 0, latest: null, unreturned: [], kept: [] });
  page.messages.replaceChildren();
  page.messages.hidden = true;
  page.empty.hidden = false;
  page.older.hidden = true;
  page.received.textContent = "";
  page.announcer.textContent = "";
  page.notice.replaceChildren();
  renderNoticeBox();
  setText("");
}

function renderCounts() {
  const gone = state.received + state.gaps - page.messages.childElementCount;
  page.received.textContent = `${counted(state.received)} received`;
  page.older.hidden = gone === 0;
  page.older.textContent = `This page keeps the newest ${counted(MESSAGES_SHOWN_MAX)} messages. ${counted(gone)} older ${gone === 1 ? "one has" : "ones have"} been dropped from it.`;
}

function messageEntry({ data, at, topic, id, gap }) {
  const entry = element("li", gap ? "message gap" : "message");
  const time = element("time", "", timeOfDay.format(at));
  time.dateTime = at.toISOString();
  time.title = dateAndTime.format(at);
  entry.append(time);
  if (gap) {
    entry.append(element("p", "missing", gap));
    return entry;
  }
  if (topic !== undefined) entry.append(originOf(topic, id));
  entry.append(typeof data === "string" ? textPayload(data) : binaryPayload(data));
  const note = noteAbout(data);
  if (note) entry.append(element("p", "quiet", note));
  return entry;
}

function originOf(topic, id) {
  const origin = element("p", "origin");
  origin.append(element("code", "topic", topic));
  if (id !== undefined) origin.append(" ", element("code", "id", id));
  return origin;
}

function textPayload(text) {
  const payload = element("div", "payload", text.slice(0, PAYLOAD_SHOWN_CHARS_MAX));
  payload.dir = "auto";
  return payload;
}

function binaryPayload(buffer) {
  const payload = element("div", "payload", describeBinary(buffer));
  payload.append(element("span", "hex", hexPreview(buffer)));
  return payload;
}

function describeBinary({ byteLength }) {
  return `Binary, ${counted(byteLength)} ${byteLength === 1 ? "byte" : "bytes"}${byteLength === 0 ? "" : ": "}`;
}

function hexPreview(buffer) {
  const bytes = new Uint8Array(buffer, 0, Math.min(buffer.byteLength, BINARY_PREVIEW_BYTES));
  const digits = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
  return buffer.byteLength > BINARY_PREVIEW_BYTES ? `${digits} …` : digits;
}

function noteAbout(data) {
  if (data === "") return "An empty message.";
  if (data.length > PAYLOAD_SHOWN_CHARS_MAX) {
    return `Shown: the first ${counted(PAYLOAD_SHOWN_CHARS_MAX)} of ${counted(data.length)} characters.`;
  }
  return null;
}

