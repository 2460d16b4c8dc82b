// The listeners, asked for every few seconds, and what they lagged in the last minutes.
import { listListeners } from '../api'
import { serverNow } from '@levee/shared'
import { useLoad } from './useLoad'
import { usePoints } from './usePoints'

export function useListeners() {
  const points = usePoints('listeners')
  const load = useLoad(async () => {
    const all = await listListeners()
    points.add(serverNow() / 1000, Object.fromEntries(all.items.flatMap((l) => [[`waiting ${l.name}`, l.waiting], [`lag ${l.name}`, l.oldest_ms / 1000]])))
    return all
  })
  return { load, points }
}
