// What this browser keeps between visits. A browser that keeps nothing (private mode, full, forbidden) is as good, for this visit.
const prefix = 'levee.'
/** What could not be kept; only then, since other tabs change what is. */
const visit = new Map<string, string>()

export function kept<T>(name: string): T | undefined {
  let text: string | null | undefined = visit.get(name)
  try {
    text ??= localStorage.getItem(prefix + name)
    return text == null ? undefined : (JSON.parse(text) as T)
  } catch {
    return undefined // nothing can be read, or it is not what was written
  }
}

export function keep(name: string, value: unknown): void {
  const text = JSON.stringify(value)
  try {
    localStorage.setItem(prefix + name, text)
    visit.delete(name)
  } catch {
    visit.set(name, text)
  }
}

export function forget(name: string): void {
  visit.delete(name)
  try {
    localStorage.removeItem(prefix + name)
  } catch {
    // it was never there
  }
}

/** The names that begin so. */
export function namesOf(start: string): string[] {
  const names = new Set([...visit.keys()].filter((n) => n.startsWith(start)))
  try {
    for (let i = 0; i < localStorage.length; i++) {
      const name = localStorage.key(i)
      if (name?.startsWith(prefix + start)) names.add(name.slice(prefix.length))
    }
  } catch {
    // what the visit knows
  }
  return [...names]
}

/** Calls f when another tab changes what is kept under the name. */
export function onKept(name: string, f: () => void): void {
  window.addEventListener('storage', (e) => {
    if (e.key === null || e.key === prefix + name) f()
  })
}
