// The remembered choice of colours, applied before the first paint. Without one the system decides.
try {
  const theme = localStorage.getItem("walvec-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is switched off: the system decides.
}
