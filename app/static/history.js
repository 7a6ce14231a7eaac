// The first change of the address after the user did something is an entry of its own; those that follow belong to it.
export default function () {
  if (window.oneEntryAnAction) return;
  window.oneEntryAnAction = true;
  let acted = false;
  for (const kind of ["pointerdown", "keydown", "click", "input", "change", "paste", "drop"]) {
    window.addEventListener(kind, () => { acted = true; }, true);
  }
  const push = history.pushState.bind(history);
  history.pushState = (state, title, address) => {
    (acted ? push : history.replaceState.bind(history))(state, title, address);
    acted = false;
  };
}
