// What the page in view is called and whether it is all there.
import { onScopeDispose, ref, watchEffect } from 'vue'
import { t } from '../words'

/** Something more important than the page's name: "Your turn!". */
export const urgent = ref('')
export const pageTitle = ref('')
export const pageState = ref<'loading' | 'ready' | 'failed'>('loading')

/** Names the page in the window's title, and tells its state, while it is shown. */
export function usePage(title: () => string | undefined, state: () => 'loading' | 'ready' | 'failed' = () => 'ready'): void {
  const stop = watchEffect(() => {
    pageTitle.value = title() ?? ''
    pageState.value = state()
    document.title = [...new Set([urgent.value, pageTitle.value, t('app.name')])].filter(Boolean).join(' · ')
  })
  onScopeDispose(() => {
    stop()
    urgent.value = ''
  })
}
