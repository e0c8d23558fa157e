import { Suspense, useEffect, useRef } from "react";
import { forgetKey, session } from "../api/session";
import { useStore } from "../api/store";
import { ConnectionBanner } from "./ConnectionBanner";
import { ErrorBoundary } from "./ErrorBoundary";
import { KeyForm } from "./KeyForm";
import { FIRST, PAGES, pageAt } from "./pages";
import { address, usePlace } from "./router";

export function App() {
  const { key, refusal } = useStore(session);
  return (
    <>
      <SkipLink />
      <Header hasKey={key !== null && refusal === null} />
      <ConnectionBanner />
      <main id="content" tabIndex={-1}>
        {refusal ? <KeyForm refusal={refusal} hadKey={key !== null} /> : <CurrentPage key={key} />}
      </main>
    </>
  );
}

/** A button, since the address of the page is in what a link's fragment would replace. */
function SkipLink() {
  return (
    <button className="skip" onClick={() => document.getElementById("content")?.focus()}>
      Skip to the content
    </button>
  );
}

function Header({ hasKey }: { hasKey: boolean }) {
  const place = usePlace();
  const here = place.parts[0] ?? FIRST;
  return (
    <header className="top">
      <a className="brand" href={address([FIRST])}>
        Layer Surgeon
      </a>
      <nav aria-label="Pages">
        {PAGES.flatMap(({ name, navigation }) =>
          navigation ? (
            <a key={name} href={address([name])} aria-current={name === here ? "page" : undefined}>
              {navigation}
            </a>
          ) : (
            []
          ),
        )}
        <a href="docs">API</a>
      </nav>
      {hasKey && (
        <button className="quiet" onClick={forgetKey}>
          Forget the key
        </button>
      )}
    </header>
  );
}

function CurrentPage() {
  const place = usePlace();
  const page = pageAt(place);
  const path = place.parts.join("/") || FIRST;
  useFocusOnArrival(path);
  if (!page) {
    return (
      <section className="card">
        <h1>There is no such page</h1>
        <p>
          <a href={address([FIRST])}>All runs</a>
        </p>
      </section>
    );
  }
  const Component = page.component;
  return (
    <ErrorBoundary key={path}>
      <Suspense fallback={<p className="muted">Loading …</p>}>
        <Component place={place} />
      </Suspense>
    </ErrorBoundary>
  );
}

/** Another page is read from its beginning, also by a screen reader; the first one by itself. */
function useFocusOnArrival(path: string): void {
  const last = useRef(path);
  useEffect(() => {
    if (last.current === path) return;
    last.current = path;
    window.scrollTo(0, 0);
    document.getElementById("content")?.focus({ preventScroll: true });
  }, [path]);
}
