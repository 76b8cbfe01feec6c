// Runs before the first paint, so that the page never flashes in the other theme.
try {
  const theme = localStorage.getItem("theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch {
  // storage is switched off: the theme of the system holds
}
