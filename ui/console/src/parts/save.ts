import { problemOf, Problem } from '@levee/shared'
import { ask } from '../session'

/** Gives the browser a file to keep. */
export function save(content: Blob, name: string): void {
  const url = URL.createObjectURL(content)
  const a = document.createElement('a')
  a.href = url
  a.download = name
  a.click()
  setTimeout(() => URL.revokeObjectURL(url), 10_000)
}

/** Fetches a file and keeps it, so that a refusal is shown and not saved. */
export const download = (url: string, name: string): Promise<void> =>
  ask(async () => {
    let response: Response
    try {
      response = await fetch(url, { credentials: 'same-origin', signal: AbortSignal.timeout(180_000) })
    } catch (e) {
      throw new Problem(0, 'unreachable', e instanceof Error ? e.message : String(e))
    }
    if (!response.ok) throw await problemOf(response)
    save(await response.blob(), name)
  })
