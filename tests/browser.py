"""A headless Chromium for tests, driven by ChromeDriver through the WebDriver protocol (W3C)."""

import base64
import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import pytest

FLAGS = (
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--disable-dev-shm-usage',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
)
KEYS = {'Space': ' ', 'Enter': '\ue007', 'Escape': '\ue00c', 'Tab': '\ue004', 'Left': '\ue012', 'Right': '\ue014'}
KEYS |= {'Up': '\ue013', 'Down': '\ue015'}
# Seconds until a script that waits for something is given up.
PATIENCE = 60


class Browser:
    """A window. `messages` are errors in the console of the pages."""

    def __init__(self, url, profile, downloads):
        self.url = url
        options = {
            'binary': shutil.which('chromium'),
            'args': [*FLAGS, f'--user-data-dir={profile}'],
            'prefs': {'download.default_directory': str(downloads), 'download.prompt_for_download': False},
        }
        capabilities = {'browserName': 'chrome', 'goog:chromeOptions': options, 'goog:loggingPrefs': {'browser': 'ALL'}}
        session = self._call('POST', '/session', {'capabilities': {'alwaysMatch': capabilities}})
        self.url += f'/session/{session["sessionId"]}'
        self._call('POST', '/timeouts', {'script': 1000 * PATIENCE})
        self.devtools('Browser.setDownloadBehavior', behavior='allow', downloadPath=str(downloads), eventsEnabled=True)

    def _call(self, method, path, content=None):
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, data, {'Content-Type': 'application/json'}, method=method)
        # without the proxies of the environment
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=2 * PATIENCE) as answer:
                return json.load(answer)['value']
        except urllib.error.HTTPError as e:
            raise AssertionError(json.load(e)['value']['message']) from None

    def open(self, path):
        self._call('POST', '/url', {'url': pathlib.Path(path).resolve().as_uri()})

    def reload(self):
        self._call('POST', '/refresh', {})

    def press(self, *keys):
        """Press keys: names of KEYS, or characters."""
        for key in keys:
            value = KEYS.get(key, key)
            actions = [{'type': kind, 'value': value} for kind in ('keyDown', 'keyUp')]
            self._call('POST', '/actions', {'actions': [{'type': 'key', 'id': 'keyboard', 'actions': actions}]})

    def click(self, selector):
        self._call('POST', f'/element/{self._element(selector)}/click', {})

    def choose_file(self, selector, path):
        self._call('POST', f'/element/{self._element(selector)}/value', {'text': str(path)})

    def _element(self, selector):
        return next(iter(self._call('POST', '/element', {'using': 'css selector', 'value': selector}).values()))

    def text(self, selector):
        return self.run('return document.querySelector(arguments[0]).textContent', selector)

    def run(self, script, *arguments):
        """The value that a script returns."""
        return self._call('POST', '/execute/sync', {'script': script, 'args': arguments})

    def run_until_done(self, script, *arguments):
        """The value that a script passes to its last argument, a function."""
        return self._call('POST', '/execute/async', {'script': script, 'args': arguments})

    def wait(self, condition):
        """Wait until a condition in JavaScript holds."""
        script = """const [condition, done] = arguments;
            const test = new Function('return ' + condition);
            const look = () => test() ? done() : setTimeout(look, 20);
            look();"""
        self.run_until_done(script, condition)

    def resize(self, width, height, dark=False):
        """Show pages as on a screen of this size in CSS pixels."""
        self.devtools(
            'Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.devtools('Emulation.setEmulatedMedia', features=[scheme])

    def screenshot(self, path):
        pathlib.Path(path).write_bytes(base64.b64decode(self._call('GET', '/screenshot')))

    def devtools(self, command, **parameters):
        return self._call('POST', '/goog/cdp/execute', {'cmd': command, 'params': parameters})

    def messages(self):
        """Errors and warnings in the console since the last call."""
        return [entry['message'] for entry in self._call('POST', '/se/log', {'type': 'browser'})]

    def close(self):
        self._call('DELETE', '')


@contextlib.contextmanager
def chromium(folder):
    """A new browser, whose profile and downloads are in `folder`; skips the test if there is none."""
    driver = shutil.which('chromedriver')
    if not driver or not shutil.which('chromium'):
        pytest.skip('needs Chromium and its driver: apt-get install chromium chromium-driver')
    (folder / 'downloads').mkdir()
    # port 0: any that is free; only connections from this machine are accepted
    with subprocess.Popen([driver, '--port=0'], stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout:
                port = re.search(r'started successfully on port (\d+)', line)
                if port:
                    break
            else:
                raise AssertionError('ChromeDriver did not start')
            browser = Browser(f'http://127.0.0.1:{port[1]}', folder / 'profile', folder / 'downloads')
            try:
                yield browser
            finally:
                browser.close()
        finally:
            process.terminate()
