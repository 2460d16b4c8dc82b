import { createRouter, createWebHistory } from 'vue-router'
import { knowUser, user } from './state/session'

declare module 'vue-router' {
  interface RouteMeta {
    /** What the page is called in data-page. */
    page: string
    /** Nobody is shown it without an account. */
    account?: boolean
  }
}

export const router = createRouter({
  history: createWebHistory(),
  routes: [
    { path: '/', component: () => import('./pages/HomePage.vue'), meta: { page: 'home' } },
    { path: '/products/:id', component: () => import('./pages/ProductPage.vue'), props: true, meta: { page: 'product' } },
    { path: '/sales', redirect: '/' },
    { path: '/sales/:id', component: () => import('./pages/SalePage.vue'), props: true, meta: { page: 'sale' } },
    { path: '/orders', component: () => import('./pages/OrdersPage.vue'), meta: { page: 'orders', account: true } },
    { path: '/orders/:id', component: () => import('./pages/OrderPage.vue'), props: true, meta: { page: 'order', account: true } },
    { path: '/notices', component: () => import('./pages/NoticesPage.vue'), meta: { page: 'notices', account: true } },
    { path: '/account', component: () => import('./pages/AccountPage.vue'), meta: { page: 'account', account: true } },
    { path: '/sign-in', component: () => import('./pages/SignPage.vue'), props: { make: false }, meta: { page: 'sign-in' } },
    { path: '/sign-in/:provider/callback', component: () => import('./pages/ReturnPage.vue'), props: true, meta: { page: 'return' } },
    { path: '/sign-up', component: () => import('./pages/SignPage.vue'), props: { make: true }, meta: { page: 'sign-up' } },
    { path: '/reset', component: () => import('./pages/ResetPage.vue'), meta: { page: 'reset' } },
    { path: '/:rest(.*)*', component: () => import('./pages/MissingPage.vue'), meta: { page: 'missing' } },
  ],
  scrollBehavior: (to, from, saved) => saved ?? (to.path === from.path ? false : { top: 0 }),
})

router.beforeEach(async (to) => {
  if (!to.meta.account) {
    void knowUser()
    return true
  }
  await knowUser(true)
  return user.value ? true : { path: '/sign-in', query: { next: to.fullPath } }
})

// A page whose files are gone was built before the server was: the whole is loaded anew, once. Else App shows that it is broken.
router.onError((e, to) => {
  if (!/dynamically imported module|Importing a module script failed|preload CSS|error loading/i.test(String(e))) return
  try {
    if (sessionStorage.getItem('levee.stale') === to.fullPath) return
    sessionStorage.setItem('levee.stale', to.fullPath)
  } catch {
    return
  }
  location.assign(to.fullPath)
})
